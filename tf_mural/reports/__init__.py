"""What people look at: tables in the terminal and for the README, charts, contact sheets."""

from tf_mural.reports import fonts
from tf_mural.reports.charts import bar_chart
from tf_mural.reports.dataset_stats import Statistics, shared
from tf_mural.reports.distributions import inspection_charts
from tf_mural.reports.grids import retrieval_grid
from tf_mural.reports.inspection import inspection_tables, shared_table
from tf_mural.reports.projector import write_projector
from tf_mural.reports.sample_records import sheet_sample
from tf_mural.reports.sheets import contact_sheet
from tf_mural.reports.tables import display_width, eta, recall_table, retrieval_table, table

__all__ = [
    "Statistics",
    "bar_chart",
    "contact_sheet",
    "display_width",
    "eta",
    "fonts",
    "inspection_charts",
    "inspection_tables",
    "recall_table",
    "retrieval_grid",
    "retrieval_table",
    "shared",
    "shared_table",
    "sheet_sample",
    "table",
    "write_projector",
]
