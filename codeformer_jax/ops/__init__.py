"""Pure array functions on the device: no parameters, no configuration, explicit keys."""
