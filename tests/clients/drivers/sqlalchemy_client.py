"""SQLAlchemy over psycopg and asyncpg: its pool, its reset on return, its ORM, server-side cursors."""

import asyncio
import os

from sqlalchemy import BigInteger, ForeignKey, String, create_engine, func, insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from check import CONNECTIONS, Checks, at_once, equal

checks = Checks()


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sqlalchemy_author"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "sqlalchemy_book"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("sqlalchemy_author.id"))
    title: Mapped[str]
    author: Mapped[Author] = relationship(back_populates="books")


def url(driver):
    return URL.create(f"postgresql+{driver}", os.environ["PGUSER"], os.environ["PGPASSWORD"], os.environ["PGHOST"],
                      int(os.environ["PGPORT"]), os.environ["PGDATABASE"])


def engine(**options):
    return create_engine(url("psycopg"), pool_size=CONNECTIONS, **options)


@checks
def create_all_and_reflect():
    db = engine()
    Base.metadata.drop_all(db)
    Base.metadata.create_all(db)
    Base.metadata.create_all(db)
    db.dispose()


@checks
def orm_round_trip_over_many_sessions():
    db = engine()

    def one(number):
        with Session(db) as session:
            author = Author(name=f"author {number}", books=[Book(title=f"title {n}") for n in range(20)])
            session.add(author)
            session.commit()
            session.refresh(author)
            equal(len(author.books), 20)
            author.books[0].title = "changed"
            session.commit()
            equal(session.scalar(select(func.count()).select_from(Book).where(Book.author_id == author.id)), 20)
            found = session.scalars(select(Book.title).where(Book.author_id == author.id, Book.title == "changed")).all()
            equal(found, ["changed"])
    at_once(one)
    db.dispose()


@checks
def unique_violation_then_the_session_goes_on():
    db = engine()
    with Session(db) as session:
        session.add(Author(name="author 0"))
        try:
            session.commit()
            raise AssertionError("no error")
        except IntegrityError as error:
            equal(error.orig.sqlstate, "23505")
            session.rollback()
        with session.begin_nested() as savepoint:
            session.add(Author(name="never"))
            session.flush()
            savepoint.rollback()
        equal(session.scalar(select(func.count()).select_from(Author).where(Author.name == "never")), 0)
    db.dispose()


@checks
def insert_many_values_with_returning():
    with engine().begin() as conn:
        rows = conn.execute(insert(Author).returning(Author.id), [{"name": f"bulk {n}"} for n in range(2500)]).all()
        equal(len(rows), 2500)


@checks
def isolation_levels_and_autocommit():
    db = engine()
    with db.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        for number in range(10):
            equal(conn.execute(text("SELECT id FROM replica_reads WHERE id = :id"), {"id": number % 10 + 1}).scalar(), number % 10 + 1)
    with db.connect().execution_options(isolation_level="SERIALIZABLE") as conn:
        equal(conn.execute(text("SHOW transaction_isolation")).scalar(), "serializable")
    with db.connect() as conn:
        equal(conn.execute(text("SHOW transaction_isolation")).scalar(), "read committed")
    db.dispose()


@checks
def server_side_cursors():
    with engine().connect() as conn:
        result = conn.execution_options(stream_results=True, max_row_buffer=50).execute(text("SELECT id FROM matrix_items"))
        equal(sum(row.id for row in result), 500500)


@checks
def pool_pre_ping_and_errors():
    db = engine(pool_pre_ping=True, pool_recycle=1)
    for _ in range(10):
        with db.connect() as conn:
            try:
                conn.execute(text("SELECT 1/0"))
                raise AssertionError("no error")
            except DBAPIError as error:
                equal(error.orig.sqlstate, "22012")
        with db.connect() as conn:
            equal(conn.execute(text("SELECT 1")).scalar(), 1)
    db.dispose()


@checks
def reads_see_the_own_writes():
    db = engine(isolation_level="AUTOCOMMIT")
    with db.connect() as conn:
        conn.execute(text("DROP TABLE IF EXISTS sqlalchemy_ryw"))
        conn.execute(text("CREATE TABLE sqlalchemy_ryw (worker int, n int)"))

    def one(number):
        with db.connect() as conn:
            for turn in range(30):
                conn.execute(text("INSERT INTO sqlalchemy_ryw VALUES (:worker, :n)"), {"worker": number, "n": turn})
                equal(conn.execute(text("SELECT max(n) FROM sqlalchemy_ryw WHERE worker = :worker"), {"worker": number}).scalar(), turn)
    at_once(one)
    db.dispose()


@checks
async def async_engine_over_asyncpg():
    db = create_async_engine(url("asyncpg"), pool_size=CONNECTIONS)

    async def one(number):
        for turn in range(10):
            async with db.begin() as conn:
                equal((await conn.execute(text("SELECT CAST(:a AS int) + 1"), {"a": turn})).scalar(), turn + 1)
                equal((await conn.execute(text("SELECT name FROM matrix_items WHERE id = :id"), {"id": number + 1})).scalar(), f"item {number + 1}")
    await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))
    await db.dispose()


checks.run()
