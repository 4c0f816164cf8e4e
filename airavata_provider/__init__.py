"""Scientific computing jobs on the world's clusters, run by Apache Airflow over SSH and batch schedulers."""

__version__ = "0.1.0"
