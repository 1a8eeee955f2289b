"""The one way in and out: what a user names is read and written here.

writing     files, whole or not at all
text        what a terminal is shown: nothing that moves it
standard    standard input, output and error, whatever is closed
"""
