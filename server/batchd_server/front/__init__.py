"""The HTTP side: protocols are parsed, checked and answered here, and nothing touches the device."""
