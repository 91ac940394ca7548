"""Backends and pools for other libraries: what `furlong.joblib`, `furlong.optuna` and ``rc.pool()`` are made of."""
