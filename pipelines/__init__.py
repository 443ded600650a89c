"""The numerical core of Stepwise: knows no page, no thread, no job, no result folder."""
