"""What is not about this project: files, processes, workers, the compilation cache, the mesh."""
