"""The report: contents in plain values in, a folder of linked pages, pictures and tables out.

`contents`  what a report says (a command fills it in)      `pages`     write_report: every page, swapped in
at once
`verdict`   three sentences made from the numbers           `overview`, `filters`, `samples`   what stands on
which page
`numbers`   measures and numbers in words                   `pictures`, `tables`, `writing`    files beside
the pages
"""

from interp_cnn.report.comparison.contents import Contents, FilterPair, Network, SampleImage, Sights
from interp_cnn.report.comparison.pages import write_report

__all__ = ["Contents", "FilterPair", "Network", "SampleImage", "Sights", "write_report"]
