-- Run once by PostgreSQL's image, when the volume is new.
CREATE DATABASE prefect;
CREATE DATABASE hybrid_video;
