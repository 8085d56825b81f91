"""`face0 pilot`: a few people and products through the whole flow, and a report to decide by."""
