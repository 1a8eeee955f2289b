"""The one way in and out: what a user names is read and written here.

`iommu.files.writing` writes files, whole or not at all.
"""
