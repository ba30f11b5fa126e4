"""Record sets, and the input pipeline that turns them into batches."""
