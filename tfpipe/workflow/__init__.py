"""The whole chain from recordings to a served model: seven stages, each skipped while it is up to date.

`chain` has the stages, `stages` runs a list of them, `configs` makes the configs of the job and of training from
keywords, and `report` gathers and shows the results.
"""
