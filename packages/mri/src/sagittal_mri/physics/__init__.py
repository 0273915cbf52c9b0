"""MRI physics: Fourier transforms, coil maps, sampling, noise and the SENSE forward operators."""
