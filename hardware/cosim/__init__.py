"""The RTL of hardware/rtl under Verilator, driven from Python, and what it is compared with."""
