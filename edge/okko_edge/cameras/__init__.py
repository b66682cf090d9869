"""Cameras with hardware behind them: on the board (`pi`), on USB (`v4l2`), and the thread that keeps one running.

`opening.open_camera` makes the one that was asked for, supervised.
"""
