"""What software and devices do in a scenario, recorded on the model and put into words.

events      the recording: each register access, memory write, DMA and interrupt of one run
tables      which structure each written page is, followed from the registers that point to tables
fields      values in words: an entry's fields, a register's name
words       the recording as steps in the words of the field
walk        the way of a request through the tables, box by box
"""
