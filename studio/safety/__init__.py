"""Who may ask the server for what: flags, origins, rates, sizes, files and temporary folders.

| module | rule |
| --- | --- |
| `flags` | the command line; refuses an open server that nobody asked for twice |
| `launch_settings` | what follows from it |
| `environment` | what must be in the environment before gradio is imported |
| `origin` | no other site may read or drive this one; no DNS rebinding |
| `signin` | where people sign in, nothing but the login page before they have |
| `rate` | a token bucket for each client address |
| `bodies` | no request larger than its cap, whether its length is announced or not |
| `payloads` | no path or address in a request, other than a file that was uploaded here |
| `uploads` | pictures and clips only, checked by content, pixels counted before decoding |
| `files` | only the temporary folder and the results are served |
| `headers` | what the browser is told not to do |
| `temp` | the temporary folder, pruned by age and by bytes |
| `protect` | all of the above around one application |
"""
