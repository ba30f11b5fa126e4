"""Reports: tables for the terminal and for Markdown, charts, pictures and web pages."""

from tf_mural.progress import format_duration
from tf_mural.reports import fonts
from tf_mural.reports.charts import recall_chart
from tf_mural.reports.dataset_charts import write_stats_charts
from tf_mural.reports.dataset_stats import DatasetStats, shared_records
from tf_mural.reports.dataset_tables import format_shared_records, format_stats
from tf_mural.reports.projector import write_projector
from tf_mural.reports.record_page import write_record_page
from tf_mural.reports.result_tables import recall_table, retrieval_table, sizes_table
from tf_mural.reports.sample_records import sample_records
from tf_mural.reports.sheets import contact_sheet, retrieval_grid
from tf_mural.reports.tables import table

__all__ = [
    "DatasetStats",
    "contact_sheet",
    "fonts",
    "format_duration",
    "format_shared_records",
    "format_stats",
    "recall_chart",
    "recall_table",
    "retrieval_grid",
    "retrieval_table",
    "sample_records",
    "shared_records",
    "sizes_table",
    "table",
    "write_projector",
    "write_record_page",
    "write_stats_charts",
]
