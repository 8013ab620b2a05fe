"""Labels: what items show, said by people, by a teacher, by what happened next, or by GNSS; and how they meet."""
