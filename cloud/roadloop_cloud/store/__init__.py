"""The cloud's state in SQL: the tables and the one way to reach them."""
