"""Operating system and devices: files, processes, workers, the compilation cache, the mesh."""
