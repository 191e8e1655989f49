"""What a table is made of: plain data, statistics, published numbers, and names made harmless for print."""
