"""A conformance report for people and for programs, one file a form.

summary     what matters first: the quirks that show, the totals by chapter, every difference in full
table       every scenario, a line each
document    JSON
junit       JUnit XML
words       what they share: an outcome in brief, a fault reason spelled out
"""
