"""What the pages are put together from. Streamlit only here and in the pages; facts come from the package."""
