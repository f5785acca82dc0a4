"""Distilled embeddings: more models of the same recipe are trained, and the served model's embedding fitted to them.

See `proponent.attribution.embedding.distilled` for the mathematics. Its rooms, in the order of a rebuild: the models
(``teachers``), the inputs that they are asked about (``pseudo_queries``, ``query_stage``), their answers
(``teacher_rows``), the fit (``student``).
"""
