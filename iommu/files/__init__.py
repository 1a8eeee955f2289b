"""The one way in and out: what a user names is read and written here.

standard     standard input, output and error, whatever is closed
text         what a terminal is shown: nothing that moves it
writing      files, whole or not at all
reading      files, pipes and standard input
mapped       large files, and where they have data
unpacking    gzip
archive      zip
documents    JSON, and the fields of its objects
limits       how much is taken, and how that is changed
"""
