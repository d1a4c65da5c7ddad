"""The published variants of SchNet, as YAML for the command line and for `pygschnet.preset`."""
