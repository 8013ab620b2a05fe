"""Who is who: the workspace's certificate authority, and the folder that provisions a vehicle."""
