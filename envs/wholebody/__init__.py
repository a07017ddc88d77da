"""A mobile manipulator whose body groups are all needed: a robot in MuJoCo, and its kinematic twin."""
