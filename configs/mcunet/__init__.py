"""MCUNet: Lin et al., "MCUNet: Tiny Deep Learning on IoT Devices", NeurIPS 2020."""
