"""The archive (log to Parquet) and the DuckDB folds: SQL files, one per question."""
