"""Execution patterns become Airflow DAGs: the bundle serves a file for each, the factory builds it."""
