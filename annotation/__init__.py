"""Ask people what the background is, and settle what they said.

Photos go to Label Studio and answers come back, or tags come in from files; the answers of several
people become one label per photo.
"""
