"""Clips of FSM toolkit as data of nerfstudio."""
