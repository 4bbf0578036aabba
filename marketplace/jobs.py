"""Ray jobs that went through the pass-through, remembered so that a receipt can name them."""

from datetime import datetime

from sqlmodel import Field, Session, SQLModel, select

from marketplace.database import UTC_TIME

FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")


class Job(SQLModel, table=True):
    """A submitted Ray job; ``status`` is Ray's word as last seen."""

    __tablename__ = "job"

    cluster_id: str = Field(foreign_key="cluster.id", primary_key=True)
    submission_id: str = Field(primary_key=True)
    entrypoint: str
    status: str
    submitted_at: datetime = Field(sa_type=UTC_TIME)
    finished_at: datetime | None = Field(default=None, sa_type=UTC_TIME)


def submitted(session: Session, cluster_id: str, submission_id: str, entrypoint: str, *, at: datetime) -> None:
    """Remember a job that Ray accepted."""
    if session.get(Job, (cluster_id, submission_id)) is None:
        session.add(
            Job(
                cluster_id=cluster_id,
                submission_id=submission_id[:200],
                entrypoint=entrypoint[:1000],
                status="PENDING",
                submitted_at=at,
            )
        )


def update(
    session: Session, cluster_id: str, submission_id: str, status: str, *, entrypoint: str, at: datetime
) -> None:
    """Note what Ray says of a job now."""
    job = session.get(Job, (cluster_id, submission_id))
    if job is not None and job.status != status:
        job.status, job.entrypoint = status[:20], entrypoint[:1000]
        if status in FINISHED:
            job.finished_at = at
        session.add(job)


def of_cluster(session: Session, cluster_id: str) -> list[Job]:
    """Return a cluster's jobs, oldest first."""
    return list(session.exec(select(Job).where(Job.cluster_id == cluster_id).order_by(Job.submitted_at)))  # type: ignore[arg-type]
