"""A report as one HTML page that needs nothing else: no other file, no network.

page         the page: head, one card a QEMU, quirks, filters, matrix
matrix       the scenarios by chapter, a column for each QEMU
details      one scenario: what software and devices do, the outcomes, the walks
style.css, script.js    copied into the page
"""
