"""Folders of pictures, checked and encoded once, as a dataset that TFDS and grain read fast.

`build_plan` lists the files and deals them to shards, `examine` turns one file into a picture or
tells why not, `shards` writes a shard of them, `publish` leaves out equal pictures and puts the
dataset into place, `build` does all of it. Until then everything lies in `OUT.partial`
(`staging`), where an interrupted build resumes.
"""
