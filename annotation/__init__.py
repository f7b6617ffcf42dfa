"""Ask people what the background is, and settle what they said.

Tags come in from files; the answers of several people become one label per photo.
"""
