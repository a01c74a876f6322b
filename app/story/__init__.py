"""The method in twelve scenes, for talks and lessons: what each shows, says, asks and answers.

Every number is of the run that is told. Computes nothing but arithmetic on it, and knows nothing about
streamlit.
"""

from app.story.case import Case, case_of
from app.story.scene import Dial, Exercise, Scene
from app.story.scenes import SCENES, TUNE, scenes_of
