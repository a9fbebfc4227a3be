"""What one day of the studio came to: money, clips, time, and what a person should look at.

Days are the studio's (`local_time`), money counts on the day it was booked, and every sum is exact: the days together
are what the ledger's balance says, to the nano-dollar. Budgets count by UTC days, as the spend gate does.
"""

from hybrid_video.daily_report.figures import DailyReport
from hybrid_video.daily_report.files import save
from hybrid_video.daily_report.making import make_report
from hybrid_video.daily_report.markdown import headline, markdown
from hybrid_video.daily_report.tables import csv_text

__all__ = ["DailyReport", "csv_text", "headline", "make_report", "markdown", "save"]
