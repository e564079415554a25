"""Files from object storage and web servers, kept on this machine by their digest."""
