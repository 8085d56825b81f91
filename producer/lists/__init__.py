"""Reading product lists: files of any form to lines, lines to prompts, sizes and variants. The door is `catalogue`."""
