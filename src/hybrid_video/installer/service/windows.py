"""A scheduled task of the user on Windows, at log-on, without an administrator. It runs the supervisor, which keeps
ComfyUI running and writes its log: the scheduler itself does neither."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.commands import ask
from hybrid_video.installer.service.background import BackgroundService
from hybrid_video.installer.service.base import Launch

NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"


def task_xml(command: list[str], folder: Path, user: str) -> str:
    """The task (learn.microsoft.com/windows/win32/taskschd/task-scheduler-schema), with no limit on its run time."""
    task = ET.Element("Task", {"version": "1.2", "xmlns": NAMESPACE})
    ET.SubElement(ET.SubElement(task, "RegistrationInfo"), "Description").text = "ComfyUI for hybrid-video"
    trigger = ET.SubElement(ET.SubElement(task, "Triggers"), "LogonTrigger")
    ET.SubElement(trigger, "Enabled").text = "true"
    ET.SubElement(trigger, "UserId").text = user
    principal = ET.SubElement(ET.SubElement(task, "Principals"), "Principal", {"id": "Author"})
    for name, value in (("UserId", user), ("LogonType", "InteractiveToken"), ("RunLevel", "LeastPrivilege")):
        ET.SubElement(principal, name).text = value
    settings = ET.SubElement(task, "Settings")
    for name, value in (
        ("MultipleInstancesPolicy", "IgnoreNew"),
        ("DisallowStartIfOnBatteries", "false"),
        ("StopIfGoingOnBatteries", "false"),
        ("ExecutionTimeLimit", "PT0S"),
        ("Hidden", "true"),
    ):
        ET.SubElement(settings, name).text = value
    action = ET.SubElement(ET.SubElement(task, "Actions", {"Context": "Author"}), "Exec")
    ET.SubElement(action, "Command").text = command[0]
    ET.SubElement(action, "Arguments").text = " ".join(f'"{part}"' for part in command[1:])
    ET.SubElement(action, "WorkingDirectory").text = str(folder)
    return '<?xml version="1.0" encoding="UTF-16"?>\n' + ET.tostring(task, encoding="unicode")


class WindowsTaskService:
    """A task of the user, and the supervisor it runs."""

    kind = "windows"

    def __init__(self, name: str, folder: Path, user: str) -> None:
        self._name = name
        self._folder = folder
        self._user = user
        self._background = BackgroundService(folder)

    @property
    def sentence(self) -> str:
        """How it runs."""
        return f"ComfyUI runs as your scheduled task {self._name!r} and starts when you log on"

    def install(self, launch: Launch) -> tuple[Path, ...]:
        """Registers the task."""
        self._background.install(launch)
        command = self._background.supervisor_command()
        windowless = Path(command[0]).with_name("pythonw.exe")
        command[0] = str(windowless) if windowless.exists() else command[0]
        file = self._folder / "task.xml"
        text = task_xml(command, self._folder, self._user)
        if not file.exists() or file.read_text(encoding="utf-16") != text:
            file.write_text(text, encoding="utf-16")
            self._must("/Create", "/TN", self._name, "/XML", str(file), "/F")
        return ()

    def start(self) -> None:
        """Runs the task now."""
        if not self.running():
            self._must("/Run", "/TN", self._name)

    def stop(self) -> None:
        """Ends the supervisor and ComfyUI; the task stays for the next log-on."""
        self._background.stop()

    def running(self) -> bool:
        """Whether the supervisor is there."""
        return self._background.running()

    def uninstall(self) -> None:
        """Deletes the task."""
        self._background.stop()
        if (self._folder / "task.xml").exists():
            self._must("/Delete", "/TN", self._name, "/F")
        self._background.uninstall()

    def _must(self, *arguments: str) -> None:
        answer = ask(("schtasks", *arguments), timeout_s=60)
        if answer is None or not answer.ok:
            said = answer.tail if answer else "no answer"
            raise ConfigurationError(
                f"`schtasks {' '.join(arguments)}` failed: {said}; use --service background instead"
            )
