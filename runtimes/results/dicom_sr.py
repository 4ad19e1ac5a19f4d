"""A result as a DICOM report: Comprehensive SR, template TID 1500 "Measurement Report", written and read back by highdicom.

Owns: the codes of such a report, `report_bytes`, `read_report`, what is taken over from the header of the image. Does not own: what was
answered (findings.py), where it may be written (record.py). The report belongs to the patient of the image, as the standard asks, so it
alone repeats the patient's and the study's attributes; messages still hold names of tags and never a text of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from runtimes.errors import MISSING, UserError
from runtimes.files.reading import read_file
from runtimes.images.dicom_guard import Bounded, load_pydicom, quiet
from runtimes.images.dicom_header import has_magic
from runtimes.results.findings import Finding, Origin

SOFTWARE = "rd-distill"  # manufacturer and model of the device that observed
SCHEME = "99RDDISTILL"  # of the codes that no public scheme has: names of classes, and DECISION
DECISION = ("decision", SCHEME, "Decision")
PLAIN_SYNTAX = "1.2.840.10008.1.2.1"  # Explicit VR Little Endian, which every receiver reads
REPORT_BYTES = 64 << 20
LONGEST_MEANING = 64  # letters of a code's meaning
IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")  # without which nothing can be referred to
UNKNOWN = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
           "ReferringPhysicianName")  # which an image may leave empty, and then the report does
MOMENTS = {"StudyDate": "DA", "StudyTime": "TM", "PatientBirthDate": "DA"}
SEXES = ("M", "F", "O")
# What was done, by Modality, where the standard's list of procedures (CID 100) has a code for it; else an imaging procedure.
PROCEDURES = {"CT": "CTUnspecifiedBodyRegion", "MR": "MRIUnspecifiedBodyRegion", "CR": "XRUnspecifiedBodyRegion",
              "DX": "XRUnspecifiedBodyRegion", "PT": "PETUnspecifiedBodyRegion", "NM": "NMUnspecifiedBodyRegion"}
PARAMETERS = ("image_spec_sha256", "target", "precision", "runtime", "version", "provider", "task", "rule", "temperatures")


@dataclass(frozen=True)
class Report:
    """What a report of ours says: findings, the algorithm with its parameters, the SOP Instance UIDs of the images it speaks of."""

    findings: tuple[Finding, ...]
    algorithm: str
    model_sha256: str
    parameters: dict[str, str]
    images: tuple[str, ...]


def load_highdicom(path: Path) -> Any:
    """The package highdicom with its reports; UserError with exit code 5 where it is missing."""
    try:
        import highdicom.sr
    except ImportError:
        raise UserError(f"{path}: DICOM reports are written by highdicom, which is missing; pip install 'rd-distill[dicom-out]'",
                        MISSING) from None
    return highdicom


def report_bytes(path: Path, sources: Sequence[Path], findings: Sequence[Finding], origin: Origin) -> bytes:
    """The bytes of a report on the image or series that these files hold, read back once and found equal.

    path: where it will lie, for messages. UserError names the tag that a source lacks, or whose value cannot be taken over.
    """
    highdicom = load_highdicom(path)
    evidence = _evidence(sources)
    with quiet(sources[0]):
        try:
            content = BytesIO()
            _report(highdicom, evidence, findings, origin).save_as(content, enforce_file_format=True)
        except Exception as error:  # highdicom and pydicom raise many types on values that a header may not hold
            raise UserError(f"{sources[0]}: {_reason(evidence[0])} cannot be taken over into a report ({type(error).__name__}); correct "
                            "the header") from None
    data = content.getvalue()
    if not _equal(_parsed(path, data), findings, origin):
        raise UserError(f"{path}: the report does not read back as it was written; it is not kept")
    return data


def read_report(path: Path) -> Report:
    """Read a report that this software wrote, checked by highdicom on the way; UserError for any other file."""
    load_highdicom(path)
    data = read_file(path, REPORT_BYTES)
    with quiet(path):
        if not has_magic(path) or load_pydicom(path).filereader.read_file_meta_info(path).get("TransferSyntaxUID") != PLAIN_SYNTAX:
            raise _no_report(path)  # a deflated file may inflate to any size
    return _parsed(path, data)


def is_ours(path: Path) -> bool:
    """Whether a file is a report that this software wrote."""
    try:
        read_report(path)
    except UserError:
        return False
    return True


def codes_of(path: Path) -> list[tuple[str, str, str]]:
    """Every code that a DICOM file uses: (scheme, value, meaning), each once, sorted."""
    pydicom = load_pydicom(path)
    with quiet(path):
        return sorted({(str(item.CodingSchemeDesignator), str(item.get("CodeValue") or item.get("LongCodeValue")), str(item.CodeMeaning))
                       for item in _items(pydicom.dcmread(BytesIO(read_file(path, REPORT_BYTES)))) if "CodeMeaning" in item})


def _items(dataset: Any) -> Iterator[Any]:
    """A dataset and every item of its sequences."""
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _items(item)


def _evidence(sources: Sequence[Path]) -> list[Any]:
    """The headers of the images that a report speaks of: the first one whole, of the others what identifies them."""
    headers: list[Any] = []
    for place, path in enumerate(sources):
        header = _header(path, place == 0)
        for name in ("StudyInstanceUID", "PatientID"):
            if headers and (header.get(name) or "") != (headers[0].get(name) or ""):
                raise UserError(f"{path}: has another {name} than {sources[0].name}; a report belongs to one study of one patient")
        headers.append(header)
    instances = {header.SOPInstanceUID for header in headers}
    if len(instances) < len(headers):
        raise UserError(f"{sources[0].parent}: {len(headers)} files share {len(instances)} values of SOPInstanceUID; expected a value each")
    return headers


def _header(path: Path, whole: bool) -> Any:
    if not has_magic(path):
        raise UserError(f"{path}: is no DICOM file, so no report can say whose image it is; leave --dicom-sr out, or bring the DICOM file")
    pydicom = load_pydicom(path)
    with quiet(path), path.open("rb") as stream:
        tags = None if whole else [pydicom.tag.Tag(name) for name in (*IDENTITY, "PatientID", "SpecificCharacterSet")]
        header = pydicom.dcmread(Bounded(path, stream, path.stat().st_size), stop_before_pixels=True, specific_tags=tags)
        for name in IDENTITY:
            value = _value(path, header, name)
            if not value:
                raise UserError(f"{path}: the tag {name} is missing or empty, and a report refers to the image by it; write it")
            if not pydicom.uid.UID(str(value)).is_valid:
                raise UserError(f"{path}: the tag {name} holds no UID; write it again")
        if whole:
            for name in UNKNOWN:
                if _value(path, header, name) is None:
                    setattr(header, name, "")
            for name, kind in MOMENTS.items():
                _check_moment(path, header, name, getattr(pydicom.valuerep, kind))
            if header.PatientSex and header.PatientSex not in SEXES:
                raise UserError(f"{path}: the tag PatientSex holds none of {', '.join(SEXES)}, which a report may hold; correct it, or "
                                "leave it empty")
        return header


def _value(path: Path, header: Any, name: str) -> Any:
    """One value of a header; UserError names the tag where it cannot be read."""
    try:
        return header.get(name)
    except Exception:  # of many types, with the value in their texts
        raise UserError(f"{path}: the tag {name} cannot be read; write it again") from None


def _check_moment(path: Path, header: Any, name: str, kind: Any) -> None:
    """UserError names the tag where a date or time is none."""
    try:
        kind(header.get(name) or None)
    except Exception:
        raise UserError(f"{path}: the tag {name} holds no {'date' if name.endswith('Date') else 'time'} as DICOM writes it; correct it, or "
                        "leave it empty") from None


def _reason(header: Any) -> str:
    """The first tag of a header whose value cannot be read, in words."""
    for tag in header.keys():  # noqa: SIM118  a dataset's own iterator reads every value
        try:
            _ = header[tag].value
        except Exception:
            from pydicom.datadict import keyword_for_tag

            return f"the tag {keyword_for_tag(tag) or tag}"
    return "its header"


def _report(highdicom: Any, evidence: Sequence[Any], findings: Sequence[Finding], origin: Origin) -> Any:
    """The report as highdicom's object."""
    from pydicom.sr.codedict import codes

    sr, first = highdicom.sr, evidence[0]
    first.decode()  # from the source's character set: the report's own is UTF-8, for names of classes are in any language
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid(int(origin.model_sha256[:32], 16)), name=SOFTWARE, manufacturer_name=SOFTWARE, model_name=origin.network or SOFTWARE)
    algorithm = sr.AlgorithmIdentification(
        name=f"{SOFTWARE} {origin.network}".strip(), version=origin.model_sha256, manufacturer=SOFTWARE,
        parameters=[f"{name} = {value}" for name, value in _parameters(origin).items()])
    images = [sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID) for header in evidence]
    groups = []
    for finding in findings:
        numbers = [(codes.DCM.Probability, finding.probability)]
        numbers += [] if finding.threshold is None else [(codes.DCM.ThresholdValue, finding.threshold)]
        groups.append(sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=_uid(), identifier=finding.name),
            finding_type=sr.CodedConcept(*_class_code(finding.name)), algorithm_id=algorithm, source_images=images,
            measurements=[sr.Measurement(name, float(number), codes.UCUM.NoUnits) for name, number in numbers],
            qualitative_evaluations=[sr.QualitativeEvaluation(
                sr.CodedConcept(*DECISION), codes.SCT.Present if finding.decided else codes.SCT.Absent)]))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device)),
        procedure_reported=getattr(codes.cid100, PROCEDURES.get(str(first.get("Modality")), "ImagingProcedure")),
        imaging_measurements=groups)
    return sr.ComprehensiveSR(
        evidence=evidence, content=content, series_instance_uid=_uid(), series_number=1, sop_instance_uid=_uid(), instance_number=1,
        manufacturer=SOFTWARE, manufacturer_model_name=origin.network or SOFTWARE, software_versions=_own_version(),
        series_description=f"{SOFTWARE} result", is_complete=True, specific_character_set="ISO_IR 192", transfer_syntax_uid=PLAIN_SYNTAX,
        coding_schemes=[highdicom.coding_schemes.CodingSchemeIdentificationItem(
            SCHEME, name=f"{SOFTWARE}: classes of a model, by the SHA-256 of their names", responsible_organization=SOFTWARE)])


def _parameters(origin: Origin) -> dict[str, str]:
    """What a report says of the algorithm beside its name and version."""
    values = {name: getattr(origin, name) for name in PARAMETERS}
    return {**{name: str(value) for name, value in values.items()}, "temperatures": " ".join(map(str, origin.temperatures))}


def _class_code(name: str) -> tuple[str, str, str]:
    """A class as a code: a value that depends on the name alone, and as much of the name as a meaning may hold."""
    plain = name.replace("\\", "/")  # which would begin another value
    meaning = plain if len(plain) <= LONGEST_MEANING else plain[:LONGEST_MEANING - 3] + "..."
    return hashlib.sha256(name.encode()).hexdigest()[:16], SCHEME, meaning


def _uid(number: int | None = None) -> str:
    """A UID of a UUID, a new one where no number is given."""
    return f"2.25.{uuid4().int if number is None else number}"


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(SOFTWARE)
    except PackageNotFoundError:
        return "unknown"


def _parsed(path: Path, data: bytes) -> Report:
    """A report of ours from its bytes; UserError where they are none."""
    highdicom = load_highdicom(path)
    from pydicom.sr.codedict import codes

    with quiet(path):
        try:
            document = highdicom.sr.srread(BytesIO(data))
            findings, groups = [], document.content.get_image_measurement_groups()
            for group in groups:
                probability, = group.get_measurements(codes.DCM.Probability)
                thresholds = [item.value for item in group.get_measurements(codes.DCM.ThresholdValue)]
                decision, = group.get_qualitative_evaluations(highdicom.sr.CodedConcept(*DECISION))
                if decision.value not in (codes.SCT.Present, codes.SCT.Absent):
                    raise _no_report(path)
                findings.append(Finding(group.tracking_identifier, probability.value, decision.value == codes.SCT.Present,
                                        thresholds[0] if thresholds else None))
            name, model, parameters = ([item.value for item in highdicom.sr.utils.find_content_items(groups[0][0], name=concept)]
                                       for concept in (codes.DCM.AlgorithmName, codes.DCM.AlgorithmVersion, codes.DCM.AlgorithmParameters))
            return Report(tuple(findings), name[0], model[0], dict(text.split(" = ", 1) for text in parameters),
                          tuple(str(instance) for _, _, instance, _ in document.get_evidence()))
        except Exception:  # of any type, where a file is damaged or of another kind
            raise _no_report(path) from None


def _no_report(path: Path) -> UserError:
    return UserError(f"{path} is no report of {SOFTWARE}; expected a file that rd-verify --dicom-sr wrote")


def _equal(report: Report, findings: Sequence[Finding], origin: Origin) -> bool:
    """Whether a report says what was answered, to the last bit; blanks at the end of a text have no meaning in DICOM."""
    plain = [Finding(finding.name.rstrip(), *(getattr(finding, name) for name in ("probability", "decided", "threshold")))
             for finding in findings]
    return list(report.findings) == plain and report.model_sha256 == origin.model_sha256 and report.parameters == _parameters(origin)
