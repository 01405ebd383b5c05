"""Scale-to-modulation tables for CMSR, from pictures."""
