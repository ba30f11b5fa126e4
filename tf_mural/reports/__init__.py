"""What people look at: tables in the terminal and for the README, charts, contact sheets."""

from tf_mural.reports.charts import bar_chart
from tf_mural.reports.sheets import contact_sheet
from tf_mural.reports.tables import display_width, eta, recall_table, retrieval_table, table

__all__ = [
    "bar_chart",
    "contact_sheet",
    "display_width",
    "eta",
    "recall_table",
    "retrieval_table",
    "table",
]
