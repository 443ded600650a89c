"""From a request to steps and a result: compare, edit, video, quantize, convergence."""
