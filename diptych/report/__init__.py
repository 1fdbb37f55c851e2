"""HTML reports: one self-contained file, readable in light and dark, on a desk, a phone and paper.

    numbers, texts, pictures (dataclasses)  ->  parts (Markup)  ->  page

`charts`, `gallery`, `overlay` and `sheet` each draw one kind of thing from the dataclasses they define; `page` puts sections in
order; `demo` and `run` say what their reports tell. Nothing here knows a system, a task or torch: pictures are uint8 RGB arrays
[H, W, 3], scores are percent, times are minutes.
"""
