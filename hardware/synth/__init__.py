"""Area and energy of the RTL, by Yosys."""
