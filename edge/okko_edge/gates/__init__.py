"""Gates that move: when (`scheduled`), what (`servo`, `relay`, `simulated`), whose pulses (`sysfs_pwm`, `lgpio_servo`).

`opening.open_gate` makes the one that the settings name.
"""
