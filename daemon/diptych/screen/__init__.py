"""Vetting a delivery: what is in it twice, what is owned already, what leaks into a test set.

Read in this order: ``delivery`` (where one lives), ``run`` (catalogue → verdicts), ``findings``
(verdicts → plain values), ``limits`` (values → accepted or not), ``report``. A delivery is judged
in an archive of its own, so that nothing of it joins what is owned before it is accepted.
"""
