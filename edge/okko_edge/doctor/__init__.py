"""Looks a device over and says, line by line, what is fine, what is not, and what to do about it.

Each module looks at one thing and returns lines; nothing is changed on the machine, and nothing is raised for what is
merely wrong with it.
"""
