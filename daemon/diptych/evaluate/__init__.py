"""The paper's protocol on anyone's images.

Read in this order: ``run`` (the command), ``cases`` and ``reading`` (files → volumes in two
halves), ``protocol`` (database and queries: ``survey``, ``transforms``, ``paper``, ``product``,
``query``, ``store``), ``answers`` (what comes out), then ``scores``, ``statistics``,
``paper_results``, ``product_results`` and ``report`` (what is made of it). ``ablation_run`` and
``retrieval_run`` are run instead, on their options.
"""
