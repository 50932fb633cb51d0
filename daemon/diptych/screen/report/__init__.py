"""The report of a screened delivery: one folder, offline, signed.

Values come in (``given``, and ``screen.findings``), files go out. Read in this order: ``write``
(the one entry), ``vendor`` (what a copy for the vendor leaves out), ``figures`` (what is counted),
``pairs``, ``tables`` and ``summary`` (files for machines), ``page`` with its template (for people)
and its parts ``opening``, ``against``, ``lists``, ``evidence``; ``slices`` and ``similarity`` (its
pictures), ``words``, ``seal`` (checksums and signature).
"""
